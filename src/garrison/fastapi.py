"""FastAPI conveniences: the principal as a dependency, on HTTP routes and web sockets alike."""

from typing import Annotated

from fastapi import Depends

from garrison.core.principal import Principal
from garrison.serve.frameworks.fastapi import current_principal

__all__ = ["Me", "current_principal"]

Me = Annotated[Principal, Depends(current_principal)]
"""`async def task(id: UUID, me: Me)`: the caller."""
