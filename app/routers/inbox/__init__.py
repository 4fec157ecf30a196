"""The endpoints of the inbox: pages, fragments of pages, and what their forms change."""
