"""A model's card: what it was made from and what was measured, as plain values and as text."""

from __future__ import annotations

from typing import Any

Card = dict[str, Any]


def render_card(card: Card) -> str:
    """The card for people."""
    measure = "accuracy" if "accuracy" in card else "error"
    measured = card[measure]
    people = f", trained on {', '.join(card['people'])}" if "people" in card else ""
    rows = {
        "data": f"{card['data']} ({card['data_hash'][:16]}){people}",
        "input": f"{' x '.join(map(str, card['input_shape']))} int8",
        "classes": ", ".join(card["class_names"]),
        measure: f"fp32 {measured['fp32']:.3f}, int8 {measured['int8']:.3f} on the {measured['on']}",
        "multiply-accum.": f"{card['multiply_accumulates']:,}",
        "parameters": f"{card['parameters']:,}",
        "files": ", ".join(f"{name} {size:,} B" for name, size in card["files"].items()),
        "network hash": card["network_hash"],
        "made with": f"torch {card['torch']}, seed {card['seed']}{_extras(card)}",
    }
    lines = [f"  {name:<18} {text}" for name, text in rows.items() if text]
    return "\n".join([f"{card['name']}: {card['description']}", *lines])


def _extras(card: Card) -> str:
    pruned = f", {card['pruned']:.0%} of the channels pruned" if card.get("pruned") else ""
    return pruned + (", quantisation-aware" if card.get("quantization_aware") else "")
