"""The status page of the operator: its template, and its charts, which are drawn here."""
