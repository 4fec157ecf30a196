"""The database: tables, engines, the tenant guard, migrations, and an embedded PostgreSQL."""
