"""Who may read and write what on mosquitto (mosquitto.conf(5), "acl_file"): the user name is the certificate's CN.

A device writes below its own name and reads what is announced to all. mosquitto answers a forbidden SUBSCRIBE as if it
were granted, and delivers nothing.
"""

from __future__ import annotations

from sanderling.broker.topics import ROOT, check_name


def fleet(federation: str) -> str:
    """The rules of the listener that devices and the coordinator use."""
    base = f"{ROOT}/{check_name('federation', federation)}"
    return _file(
        "user coordinator",
        *(f"topic write {base}/{announced}" for announced in _ANNOUNCED),
        f"topic read {base}/device/#",
        # For everybody, whatever the user:
        *(f"pattern read {base}/{announced}" for announced in _ANNOUNCED),
        f"pattern readwrite {base}/device/%u/#",
    )


def enrolment(federation: str) -> str:
    """The rules of the listener for those who have no certificate yet: their client id is their token's id."""
    base = f"{ROOT}/{check_name('federation', federation)}"
    return _file(f"pattern write {base}/enrol/%c/request", f"pattern read {base}/enrol/%c/reply")


def enrolment_service(federation: str) -> str:
    """The rules of the one who answers them."""
    base = f"{ROOT}/{check_name('federation', federation)}"
    return _file("user enrolment", f"topic read {base}/enrol/+/request", f"topic write {base}/enrol/+/reply")


_ANNOUNCED = ("plan", "model/#", "network/#")


def _file(*lines: str) -> str:
    return "\n".join(lines) + "\n"
