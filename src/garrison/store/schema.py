"""The one set of tables. Each room declares its own beside its queries; this only holds them together.

Names of keys and unique constraints are PostgreSQL's own defaults, so that both stores and every migration call them
the same. Checks and indexes are named where they are declared.
"""

from sqlalchemy import MetaData

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)
