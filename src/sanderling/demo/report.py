"""The demo's report: one HTML file that needs nothing from outside, with its plots drawn as SVG by matplotlib."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from typing import Any

from sanderling.demo.federation import TARGET, Comparison
from sanderling.models.errors import MissingError

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2733; background: #f6f8fa; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0 0 .25rem; } h2 { margin: 2rem 0 .5rem; } p.sub { color: #51606f; margin: 0 0 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; }
.tile { background: #fff; border: 1px solid #d7dee5; border-radius: .5rem; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.6rem; } .tile span { color: #51606f; font-size: .9rem; }
figure + .scroll { margin-top: .75rem; }
figure { background: #fff; border: 1px solid #d7dee5; border-radius: .5rem; margin: 0; padding: .5rem; }
figure svg { width: 100%; height: auto; display: block; } figcaption { color: #51606f; padding: .25rem .5rem; font-size: .9rem; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid #d7dee5; border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; border-bottom: 1px solid #e8edf1; }
th:first-child, td:first-child { text-align: left; } tbody tr:last-child td { border-bottom: 0; }
code { overflow-wrap: anywhere; }
"""


def render(shown: dict[str, Any], compared: Comparison, mlflow_uri: str | None) -> str:
    """The page (UTF-8 text). MissingError without matplotlib."""
    rounds = shown["rounds"]
    target = shown["to_target"]
    body = [
        "<h1>Seven watches, one model</h1>",
        f"<p class='sub'>A Sanderling federation: {len(shown['devices'])} devices, {len(rounds)} rounds, "
        f"seed {shown['seed']}. No recording left its device.</p>",
        "<div class='tiles'>",
        *(_tile(value, text) for value, text in _tiles(shown)),
        "</div>",
        "<h2>Learning together</h2>",
        _figure(
            _accuracy_plot(rounds, compared),
            "Accuracy of the shared model on the devices' validation windows, "
            "by round and by the bytes a device had sent; fp32 FedAvg of the same head beside it.",
        ),
        "<h2>Each person</h2>",
        _figure(
            _people_plot(shown),
            "Accuracy on the last 20 % of each person's recordings, used once, for this table.",
        ),
        _table(
            ("device", "before", "federated", "central", "windows"),
            [
                (
                    device,
                    *(f"{row[name]:.3f}" for name in ("before", "federated", "central")),
                    str(row["windows"]),
                )
                for device, row in shown["per_device"].items()
            ],
        ),
        "<h2>What it cost</h2>",
        f"<p>To reach {TARGET:.2f} on the validation windows, uplink of all devices together:</p>",
        _table(
            ("", "rounds", "bytes", "times ours"),
            [
                _cost_row("Sanderling", target["rounds"], target["uplink_bytes"], target["uplink_bytes"]),
                _cost_row(
                    "fp32 FedAvg, head only",
                    target["fp32_fedavg_rounds"],
                    target["fp32_head_uplink_bytes"],
                    target["uplink_bytes"],
                ),
                _cost_row(
                    "fp32 FedAvg, whole model",
                    target["fp32_fedavg_rounds"],
                    target["fp32_full_model_uplink_bytes"],
                    target["uplink_bytes"],
                ),
            ],
        ),
        "<h2>Rounds</h2>",
        _table(
            (
                "round",
                "reports",
                "accuracy",
                "loss",
                "update norm",
                "cosine",
                "up, bytes",
                "down, bytes",
                "seconds",
            ),
            [
                (
                    str(entry["round"]),
                    f"{entry['participants']} of {entry['asked']}",
                    f"{entry['validation_accuracy']:.3f}",
                    f"{entry['validation_loss']:.3f}",
                    f"{entry['update_norm']:.0f}",
                    f"{entry['cosine']:.2f}",
                    f"{entry['uplink_bytes']:,}",
                    f"{entry['downlink_bytes']:,}",
                    f"{entry['duration_s']:.2f}",
                )
                for entry in rounds
            ],
        ),
        f"<h2>Provenance</h2><p>Model <code>{shown['model_hash']}</code>, run <code>{html.escape(shown['run'])}</code>. "
        "<code>sanderling replay</code> on this directory computes the same hash again from the reports."
        + (f" MLflow: <code>{html.escape(mlflow_uri)}</code>." if mlflow_uri else "")
        + "</p>",
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Sanderling demo, seed {shown['seed']}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _tiles(shown: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"{shown['accuracy']:.3f}", "federated accuracy"),
        (f"{shown['accuracy_before']:.3f}", "before"),
        (f"{shown['accuracy_central']:.3f}", "same head, trained centrally"),
        (
            f"{shown['uplink_bytes_per_device_round']:.0f} B",
            f"an update; the fp32 head is {shown['fp32_head_bytes']:,} B",
        ),
    ]


def _tile(value: str, text: str) -> str:
    return f"<div class='tile'><b>{html.escape(value)}</b><span>{html.escape(text)}</span></div>"


def _cost_row(name: str, rounds: int | None, sent: int | None, ours: int | None) -> tuple[str, str, str, str]:
    if rounds is None or sent is None:
        return (name, "not reached", "", "")
    return (name, str(rounds), f"{sent:,}", f"{sent / ours:.0f}" if ours else "")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    top = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure role='group' aria-label='{html.escape(caption)}'>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _accuracy_plot(rounds: list[dict[str, Any]], compared: Comparison) -> str:
    theirs = compared.float_fedavg.accuracies
    head_bytes = 4 * compared.head.dimension
    ours = [entry["validation_accuracy"] for entry in rounds]
    sent = [0.0]
    for entry in rounds[:-1]:
        sent.append(sent[-1] + entry["uplink_bytes"] / max(entry["participants"], 1))

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        left.plot(range(len(ours)), ours, marker="o", markersize=3, label="Sanderling")
        left.plot(range(1, len(theirs) + 1), theirs, label="fp32 FedAvg, head")
        left.axhline(TARGET, color="#888", linewidth=0.8, linestyle=":")
        left.set(xlabel="rounds", ylabel="validation accuracy")
        left.legend(loc="lower right")
        right.plot([max(value, 1) for value in sent], ours, marker="o", markersize=3)
        right.plot([head_bytes * (index + 1) for index in range(len(theirs))], theirs)
        right.axhline(TARGET, color="#888", linewidth=0.8, linestyle=":")
        right.set(xlabel="bytes sent by a device", xscale="log", xlim=(50, None))

    return _svg(draw, 9, 3.6)


def _people_plot(shown: dict[str, Any]) -> str:
    devices = list(shown["per_device"])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for offset, name in ((-0.27, "before"), (0.0, "federated"), (0.27, "central")):
            heights = [shown["per_device"][device][name] for device in devices]
            axes.bar([index + offset for index in range(len(devices))], heights, width=0.25, label=name)
        axes.set(xticks=range(len(devices)), xticklabels=devices, ylim=(0, 1), ylabel="test accuracy")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)

    return _svg(draw, 9, 3.2)


def _svg(draw: Callable[[Any], None], width: float, height: float) -> str:
    """An SVG element, the same bytes for the same figures."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingError(
            "matplotlib is not installed: run `pip install 'sanderling[coordinator]'`"
        ) from None
    style: dict[Any, Any] = {
        "svg.hashsalt": "sanderling",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
