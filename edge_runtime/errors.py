"""Why an agent refuses a message, beyond the kinds in broker/errors.py, each with the `reason` it is counted under.

ProtocolError
|- OlderRoundError       older_round       a plan that the agent is past
|- DimensionError        wrong_dimension   a body that does not fit the network's head
`- UnexpectedTopicError  unexpected_topic  nothing that was asked for
"""

from __future__ import annotations

from sanderling.models.errors import ProtocolError


class OlderRoundError(ProtocolError):
    reason = "older_round"

    def __init__(self, run: str, current: int, actual: int) -> None:
        super().__init__(f"plan for round {actual} of run {run!r}, the current one is {current}")
        self.run = run
        self.current = current
        self.actual = actual


class DimensionError(ProtocolError):
    reason = "wrong_dimension"

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"model of {actual} parameters, the network's head has {expected}")
        self.expected = expected
        self.actual = actual


class UnexpectedTopicError(ProtocolError):
    reason = "unexpected_topic"

    def __init__(self, topic: str) -> None:
        super().__init__(f"a message on {topic!r}, which this agent did not ask for")
        self.topic = topic
