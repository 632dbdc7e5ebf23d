"""Norms of an update dW = a @ b (scale included), per matrix and over all: gauge invariant, since only dW enters.

For A (D, r) and B (r, F), (A G, G^-1 B) has the same dW. The minimum over gauges of (|A|^2 + |B|^2) / 2 is the nuclear norm
of dW, so weight decay on A and B is a nuclear-norm penalty on the update.
"""

import numpy as np
from flax.traverse_util import flatten_dict

NORMS = ("frobenius", "nuclear", "spectral", "stable_rank")


def singular_values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Singular values of a @ b, largest first, (..., r): from two thin QR factors, so that no D x F matrix is formed. nan of an update
    that is not finite, which the others do not mind.
    """
    known = np.asarray(np.isfinite(a).all((-1, -2)) & np.isfinite(b).all((-1, -2)))[..., None]
    a, b = (np.where(known[..., None], x, 0).astype(np.float64) for x in (a, b))
    r_a, r_b = np.linalg.qr(a, mode="r"), np.linalg.qr(np.swapaxes(b, -1, -2), mode="r")
    return np.where(known, np.linalg.svd(r_a @ np.swapaxes(r_b, -1, -2), compute_uv=False), np.nan)


def norms(lora: dict) -> dict[str, dict[str, np.ndarray]]:
    """{module or "all": {norm: value}} of an effective adapter; leading axes (members) are kept.

    Over all matrices the update counts as one block-diagonal matrix: Frobenius adds in squares, nuclear adds, spectral is
    the largest.
    """
    flat = flatten_dict(lora)
    spectra = {
        "/".join(path[:-1]): singular_values(np.asarray(a), np.asarray(flat[(*path[:-1], "b")]))
        for path, a in flat.items()
        if path[-1] == "a"
    }
    spectra["all"] = np.concatenate(list(spectra.values()), axis=-1)
    return {name: _of_spectrum(s) for name, s in spectra.items()}


def _of_spectrum(s: np.ndarray) -> dict[str, np.ndarray]:
    frobenius, spectral = np.sqrt((s**2).sum(-1)), s.max(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        stable = np.where(spectral > 0, frobenius**2 / spectral**2, 0.0)
    return dict(zip(NORMS, map(np.asarray, (frobenius, s.sum(-1), spectral, stable)), strict=True))
