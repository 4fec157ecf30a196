"""The schema of the database: migrations, its distribution over nodes, and statistics of young tables."""
