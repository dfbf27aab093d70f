"""Seeded damage to the bytes of a file."""

from __future__ import annotations

import random

EXTREMES = (b'\0', b'\xff', b'\x7f\xff\xff\xff', b'\xff\xff\xff\xff', b'\x80\0\0\0', b'\0\0\0\0', b'\0\0\0\x01')


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy of `data`; at most a few hundred bytes longer."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not raw:
            break
        # Half of the places are in the first 200 bytes, where headers are.
        place = rng.randrange(min(200, len(raw)) if rng.random() < 0.5 else len(raw))
        length = rng.choice((1, 4, 16, 256))
        kind = rng.randrange(7)
        if kind == 0:
            raw[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[place : place + length] = rng.randbytes(min(length, len(raw) - place))
        elif kind == 2:
            extreme = rng.choice(EXTREMES)
            raw[place : place + len(extreme)] = extreme
        elif kind == 3:
            del raw[place : place + length]
        elif kind == 4:
            raw[place:place] = raw[place : place + length]
        elif kind == 5:
            other = rng.randrange(len(raw))
            raw[place : place + length] = raw[other : other + length]
        elif rng.random() < 0.3:
            del raw[place:]
    return bytes(raw)
