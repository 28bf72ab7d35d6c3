"""Four nodes, started once for all of this room: that costs seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.nodes import Nodes, certificate, four_nodes


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with four_nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def pem(nodes: Nodes) -> Path:
    return certificate(nodes.directory)
