"""Repairs: what a provider's 400 says is wrong -> the one change that puts it right (R11, R15, R18, R19, R23, R24).

`find` reads an error, `before` and `after` apply what it found: to the Messages request before it is encoded, to the
body after. Pure. A repair never changes the meaning in silence: what it drops or approximates is noted as a Loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ccm.dialects.base import Context, Encoded, Loss, Request
from ccm.dialects.repair.model import Draft, Repair
from ccm.late import Late
from ccm.model import ProviderError

if TYPE_CHECKING:
    from ccm.dialects.repair import actions, refusal
else:  # most runs never see a refusal that can be repaired
    actions, refusal = Late("ccm.dialects.repair.actions"), Late("ccm.dialects.repair.refusal")

__all__ = ["STATUSES", "Repair", "after", "before", "find"]

STATUSES = frozenset((400, 404, 415, 422, 500))  # those of all rules


def find(error: ProviderError, request: Request, encoded: Encoded, dialect: str) -> Repair | None:
    """The repair for a refusal, or None where nothing is known to help. `request` is the Messages request as it was
    encoded, `encoded` what was sent (an empty body: the request itself went out)."""
    return refusal.find(error, request, encoded, dialect) if error.status in STATUSES else None


def before(repairs: Iterable[Repair], request: Request, ctx: Context) -> tuple[Request, Context, list[Loss]]:
    """The request and context to be encoded, and what was lost. `request` itself is not changed."""
    draft = Draft(request, ctx)
    for repair in repairs:
        if (action := actions.ACTIONS[repair.name].before) is not None:
            action(draft, repair.args)
    return draft.request, draft.ctx, draft.losses


def after(repairs: Iterable[Repair], encoded: Encoded, losses: Iterable[Loss] = ()) -> None:
    """Changes the encoded body as the repairs say, and adds the losses of `before`."""
    for loss in losses:
        encoded.lose(*loss)
    for repair in repairs:
        if (action := actions.ACTIONS[repair.name].after) is not None:
            action(encoded, repair.args)
