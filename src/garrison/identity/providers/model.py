"""The table of who came from where.

An outside identity is (issuer, subject), never an address: addresses change hands. It is linked to one account, for
good.
"""

from sqlalchemy import Column, Double, ForeignKey, Index, String, Table, Text

from garrison.store.schema import metadata

identities = Table(
    "identities",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Double, nullable=False),
    Index("identities_by_account", "account_id"),
)
