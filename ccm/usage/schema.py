"""The usage database's tables, as steps from version to version, and the SQL that keeps the sums beside the rows.

`PRAGMA user_version` is the version. A request is one row, so is each attempt. What a request adds to the sums are its
postings: one for the answer, at whoever gave it, and one for every other attempt that generated tokens, at whoever
charges for them. All sums are made of postings by one statement, also when they are built anew. Text of requests,
answers or errors has no column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TOKENS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking", "web_searches", "web_fetches")  # fmt: skip
# What every table of sums holds, in this order. `unpriced` counts postings whose price is unknown; `saved_usd` sums
# list price less cost where both are known; `assumed_usd` is the part of `cost_usd` that nobody confirmed.
SUMS = (
    "requests", "failed", "attempts", *TOKENS, "estimated", "unpriced", "cost_usd", "list_cost_usd", "saved_usd",
    "assumed_usd",
)  # fmt: skip
# The dimensions of the hourly and daily sums.
DIMENSIONS = ("provider", "endpoint", "model", "class", "project")

REQUEST_COLUMNS = (
    "seq", "id", "at", "hour", "surface", "asked_model", "class", "session", "project", "provider", "endpoint", "model",
    "status", "ending", "stop_reason", "stream", "first_content_s", "total_s", "attempts", *TOKENS, "estimated",
    "assumed", "answer_cost_usd", "cost_usd", "list_cost_usd",
)  # fmt: skip
ATTEMPT_COLUMNS = (
    "request", "n", "provider", "endpoint", "model", "result", "started_s", "seconds", "assumed_billed", "cost_usd",
    "partial", "estimated", *TOKENS,
)  # fmt: skip

# {0}: a condition on `r`, a request. Any use must give one: without it this reads the whole table twice.
_ANSWERS = """
SELECT r.hour AS hour, r.at AS at, r.provider AS provider, r.endpoint AS endpoint, r.model AS model, r.class AS class,
  r.project AS project, r.session AS session, r.surface <> 'count_tokens' AS requests, r.ending IN ('failed', 'broken') AS failed,
  r.attempts AS attempts, r.input AS input, r.cache_read AS cache_read, r.cache_write_5m AS cache_write_5m,
  r.cache_write_1h AS cache_write_1h, r.output AS output, r.thinking AS thinking, r.web_searches AS web_searches,
  r.web_fetches AS web_fetches, r.estimated AS estimated, r.answer_cost_usd IS NULL AS unpriced,
  coalesce(r.answer_cost_usd, 0.0) AS cost_usd, coalesce(r.list_cost_usd, 0.0) AS list_cost_usd,
  coalesce(r.list_cost_usd - r.cost_usd, 0.0) AS saved_usd,
  CASE WHEN r.assumed THEN coalesce(r.answer_cost_usd, 0.0) ELSE 0.0 END AS assumed_usd
FROM requests r WHERE {0}
"""
_PARTS = """
SELECT r.hour, r.at, a.provider, a.endpoint, a.model, r.class, r.project, r.session, 0, 0, 0, a.input, a.cache_read,
  a.cache_write_5m, a.cache_write_1h, a.output, a.thinking, a.web_searches, a.web_fetches, a.estimated,
  a.cost_usd IS NULL, coalesce(a.cost_usd, 0.0), 0.0, 0.0,
  CASE WHEN a.assumed_billed THEN coalesce(a.cost_usd, 0.0) ELSE 0.0 END
FROM requests r JOIN attempts a ON a.request = r.seq WHERE a.partial AND {0}
"""
POSTINGS = f"{_ANSWERS}UNION ALL{_PARTS}"
# The local date of an hour; hours begin so that none straddles two of them.
DAY = "strftime('%Y-%m-%d', hour, 'unixepoch', 'localtime')"

_TOKEN_COLUMNS = "".join(f", {name} INTEGER NOT NULL DEFAULT 0" for name in TOKENS)
_SUM_COLUMNS = "".join(
    f", {name} {'REAL' if name.endswith('_usd') else 'INTEGER'} NOT NULL DEFAULT 0" for name in SUMS
)
_DIMENSION_COLUMNS = "".join(f", {name} TEXT NOT NULL" for name in DIMENSIONS)
_DIMENSION_LIST = ", ".join(DIMENSIONS)

_ROWS = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    f"""CREATE TABLE requests (
      seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at REAL NOT NULL, hour INTEGER NOT NULL, surface TEXT NOT NULL,
      asked_model TEXT NOT NULL, class TEXT NOT NULL, session TEXT NOT NULL, project TEXT NOT NULL,
      provider TEXT NOT NULL, endpoint TEXT NOT NULL, model TEXT NOT NULL, status INTEGER NOT NULL,
      ending TEXT NOT NULL, stop_reason TEXT, stream INTEGER NOT NULL, first_content_s REAL, total_s REAL NOT NULL,
      attempts INTEGER NOT NULL{_TOKEN_COLUMNS}, estimated INTEGER NOT NULL, assumed INTEGER NOT NULL,
      answer_cost_usd REAL, cost_usd REAL, list_cost_usd REAL)""",
    "CREATE INDEX requests_at ON requests (at)",
    f"""CREATE TABLE attempts (
      request INTEGER NOT NULL, n INTEGER NOT NULL, provider TEXT NOT NULL, endpoint TEXT NOT NULL,
      model TEXT NOT NULL, result TEXT NOT NULL, started_s REAL NOT NULL, seconds REAL NOT NULL,
      assumed_billed INTEGER NOT NULL, cost_usd REAL, partial INTEGER NOT NULL DEFAULT 0,
      estimated INTEGER NOT NULL DEFAULT 0{_TOKEN_COLUMNS}, PRIMARY KEY (request, n)) WITHOUT ROWID""",
)
_TABLES_OF_SUMS = (
    f"CREATE TABLE hours (hour INTEGER NOT NULL{_DIMENSION_COLUMNS}{_SUM_COLUMNS}, "
    f"PRIMARY KEY (hour, {_DIMENSION_LIST})) WITHOUT ROWID",
    f"CREATE TABLE days (day TEXT NOT NULL{_DIMENSION_COLUMNS}{_SUM_COLUMNS}, "
    f"PRIMARY KEY (day, {_DIMENSION_LIST})) WITHOUT ROWID",
    f"CREATE TABLE sessions (session TEXT PRIMARY KEY, first_at REAL NOT NULL, last_at REAL NOT NULL, "
    f"project TEXT NOT NULL{_SUM_COLUMNS}) WITHOUT ROWID",
    "CREATE INDEX sessions_last ON sessions (last_at)",
    f"CREATE TABLE session_hours (hour INTEGER NOT NULL, session TEXT NOT NULL{_SUM_COLUMNS}, "
    "PRIMARY KEY (hour, session)) WITHOUT ROWID",
)


_SUMMED = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
_OF_MOMENT = f"hour, {_DIMENSION_LIST}, session"
# The requests in question, added up once: the tables of sums are three, and requests of a moment are much alike.
_SUM_OF = f"SELECT {_OF_MOMENT}, min(at) AS first_at, max(at) AS last_at, {_SUMMED} FROM "  # noqa: S608 our own names
_MOMENT = f"{_SUM_OF}({POSTINGS}) GROUP BY {_OF_MOMENT}"
_MOMENT_OF_ANSWERS = f"{_SUM_OF}({_ANSWERS}) GROUP BY {_OF_MOMENT}"


def _add(
    table: str, keys: Sequence[str], key_values: str, source: str, more: Mapping[str, tuple[str, str]]
) -> str:
    """Adds up `source` into a table of sums. `more`: further columns, each with its value and how two are merged."""
    columns = ", ".join((*keys, *more, *SUMS))
    values = ", ".join(
        (key_values, *(value for value, _ in more.values()), *(f"sum({name})" for name in SUMS))
    )
    merged = [f"{name} = {merge}" for name, (_, merge) in more.items()]
    merged += [f"{name} = {name} + excluded.{name}" for name in SUMS]
    return (
        f"INSERT INTO {table} ({columns}) SELECT {values} FROM {source} GROUP BY {key_values} "  # noqa: S608
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join(merged)}"
    )


_ALL = "temp.moment WHERE true"  # without WHERE, sqlite would take ON CONFLICT for the ON of a join
_ADD_MOMENT = (
    _add("hours", ("hour", *DIMENSIONS), f"hour, {_DIMENSION_LIST}", _ALL, {}),
    _add("session_hours", ("hour", "session"), "hour, session", _ALL, {}),
    _add("sessions", ("session",), "session", _ALL, {
        "first_at": ("min(first_at)", "min(first_at, excluded.first_at)"),
        "last_at": ("max(last_at)", "max(last_at, excluded.last_at)"),
        "project": ("max(project)", "CASE excluded.project WHEN '' THEN project ELSE excluded.project END"),
    }),
)  # fmt: skip
# Once per connection; then, for each batch, after its rows: the sums with :after, the last `seq` before the batch. A
# batch without partial attempts has no postings but those of its answers: looking for others costs a fifth of it.
MAKE_MOMENT = f"CREATE TEMP TABLE IF NOT EXISTS moment AS {_MOMENT.format('false')}"
ADD_NEW = (
    f"INSERT INTO temp.moment {_MOMENT.format('r.seq > :after')}",
    *_ADD_MOMENT,
    "DELETE FROM temp.moment",
)
ADD_NEW_ANSWERS = (f"INSERT INTO temp.moment {_MOMENT_OF_ANSWERS.format('r.seq > :after')}", *ADD_NEW[1:])
# Hours before :limit become whole days, and go.
FOLD_HOURS = (
    _add("days", ("day", *DIMENSIONS), f"{DAY}, {_DIMENSION_LIST}", "hours WHERE hour < :limit", {}),
    "DELETE FROM hours WHERE hour < :limit",
    "DELETE FROM session_hours WHERE hour < :limit",
    "DELETE FROM sessions WHERE last_at < :limit",
)

# Step n leads from version n to n + 1. A step once released is never changed; a new one is appended. These two are
# made of the tuples above: when one of those grows, freeze here what it was, and let the new step add the column.
STEPS: tuple[tuple[str, ...], ...] = (
    _ROWS,
    (
        *_TABLES_OF_SUMS,
        f"CREATE TEMP TABLE moment AS {_MOMENT.format('true')}",
        *_ADD_MOMENT,
        "DROP TABLE temp.moment",
    ),
)
VERSION = len(STEPS)
