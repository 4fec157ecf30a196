"""The pages of the inbox: templates, words, static files, and the values that templates show. No service is used."""
