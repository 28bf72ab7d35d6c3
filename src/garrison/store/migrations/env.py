"""Run by Alembic: migrates the connection that `store.migrate` hands over, in the transaction it has begun.

There is no other way in: no URL, no offline mode, no `alembic` command. `garrison migrate` is the command.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,  # SQLite has it; Alembic believes otherwise because of the driver's own way to begin
)
with context.begin_transaction():
    context.run_migrations()
