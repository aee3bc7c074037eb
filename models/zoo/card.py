"""A model's card: what it was made from and what was measured, as plain values and as text."""

from __future__ import annotations

from typing import Any

Card = dict[str, Any]


def render_card(card: Card) -> str:
    """The card for people."""
    accuracy = card["accuracy"]
    return "\n".join(
        [
            f"{card['name']}: {card['description']}",
            f"  data               {card['data']} ({card['data_hash'][:16]}), people {', '.join(card['people'])}",
            f"  input              {' x '.join(map(str, card['input_shape']))} int8",
            f"  classes            {', '.join(card['class_names'])}",
            f"  accuracy           fp32 {accuracy['fp32']:.3f}, int8 {accuracy['int8']:.3f} {accuracy['on']}",
            f"  multiply-accum.    {card['multiply_accumulates']:,}",
            f"  parameters         {card['parameters']:,}",
            f"  files              {', '.join(f'{name} {size:,} B' for name, size in card['files'].items())}",
            f"  network hash       {card['network_hash']}",
            f"  made with          torch {card['torch']}, seed {card['seed']}",
        ]
    )
