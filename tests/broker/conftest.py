import pytest

from sanderling.broker.run import start_broker


@pytest.fixture(scope="session", params=["mosquitto", "embedded"])
def broker(request):
    with start_broker(request.param) as running:
        yield running
