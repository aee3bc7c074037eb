import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker.topics import Topics
from sanderling.models.errors import UsageError
from tests.broker import strategies

TOPICS = Topics("watch")


def test_topics_as_written_in_the_specification():
    assert TOPICS.plan == "sanderling/1/watch/plan"
    assert TOPICS.model(b"\x01\xab") == "sanderling/1/watch/model/01ab"
    assert TOPICS.network(b"\x01\xab") == "sanderling/1/watch/network/01ab"
    assert TOPICS.update("pi-3") == "sanderling/1/watch/device/pi-3/update"
    assert TOPICS.status("pi-3") == "sanderling/1/watch/device/pi-3/status"
    assert TOPICS.evaluation("pi-3") == "sanderling/1/watch/device/pi-3/evaluation"
    assert TOPICS.all_updates == "sanderling/1/watch/device/+/update"
    assert TOPICS.all_statuses == "sanderling/1/watch/device/+/status"
    assert TOPICS.all_evaluations == "sanderling/1/watch/device/+/evaluation"


@given(strategies.names)
def test_device_of_undoes_every_topic_of_a_device(device):
    for topic in (TOPICS.update(device), TOPICS.status(device), TOPICS.evaluation(device)):
        assert TOPICS.device_of(topic) == device


@pytest.mark.parametrize(
    "topic",
    [
        "sanderling/1/other/device/pi/update",
        "sanderling/2/watch/device/pi/update",
        "sanderling/1/watch/device/pi/firmware",
        "sanderling/1/watch/device/pi/update/more",
        "sanderling/1/watch/device//update",
        "sanderling/1/watch/device/p i/update",
        "sanderling/1/watch/device/" + "p" * 65 + "/update",
        "sanderling/1/watch/device/pi",
        "sanderling/1/watch/plan",
        "",
    ],
)
def test_no_other_topic_has_a_device(topic):
    assert TOPICS.device_of(topic) is None


@given(st.text(max_size=70))
def test_a_name_is_a_level_of_a_topic_or_refused(name):
    try:
        topic = TOPICS.update(name)
    except UsageError:
        return
    assert topic.count("/") == 5
    assert not set("+#\0") & set(topic)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "naïve", "a b", "x" * 65, "a\n"])
def test_bad_names_are_refused_with_what_was_expected(name):
    with pytest.raises(UsageError, match="expected 1 to 64"):
        Topics(name)
    with pytest.raises(UsageError, match="expected 1 to 64"):
        TOPICS.status(name)


def test_enrolment_topics_name_their_token_and_only_requests_are_requests():
    topics = Topics("fed")
    assert topics.enrolment_request("ab12") == "sanderling/1/fed/enrol/ab12/request"
    assert topics.token_of(topics.enrolment_request("ab12")) == "ab12"
    for topic in (
        topics.enrolment_reply("ab12"),
        topics.update("ab12"),
        "sanderling/1/other/enrol/ab12/request",
        "sanderling/1/fed/enrol/ab12/request/request",
        "sanderling/1/fed/enrol//request",
        "sanderling/1/fed/enrol/+/request",
    ):
        assert topics.token_of(topic) is None
