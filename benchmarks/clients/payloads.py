"""What is published: JSON objects such as an application has, of a given size."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["DISTINCT", "make_payload", "make_payloads"]

DISTINCT = 16  # so that no client profits from sending the same object again and again


def make_payloads(size: int) -> list[dict[str, Any]]:
    """DISTINCT payloads, each of (nearly) ``size`` bytes as compact JSON."""
    return [make_payload(size, number) for number in range(DISTINCT)]


def make_payload(size: int, number: int) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "order_id": f"order-{number:08}",
        "status": "confirmed",
        "customer": {"id": 1000 + number, "name": "Ada Lovelace", "vip": number % 2 == 0},
        "total": 99.5 + number,
        "currency": "EUR",
        "tags": ["web", "priority"],
        "note": "",
    }
    missing = size - len(json.dumps(payload, separators=(",", ":")))
    payload["note"] = "n" * max(missing, 0)
    return payload
