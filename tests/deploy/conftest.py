"""Four nodes, started once for each file: idle ones would disturb what is measured after."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.nodes import Nodes, certificate, four_nodes


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with four_nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def pem(nodes: Nodes) -> Path:
    return certificate(nodes.directory)
