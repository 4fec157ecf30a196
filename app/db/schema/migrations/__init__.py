"""The history of the schema. Revisions are dated, change one thing, and never import the models."""
