"""One running server for all tests of this folder."""

import pytest
from running_server import running


@pytest.fixture(scope="session")
def server():
    with running() as found:
        yield found
