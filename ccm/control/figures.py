"""What the usage store, the budgets and the guard can be asked and told: their lines of the control table."""

from __future__ import annotations

from ccm.control.arguments import Route

ROUTES: tuple[Route, ...] = ()
