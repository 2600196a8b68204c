"""Tables for a warehouse: `videos`, `attempts` and `costs` as Parquet, partitioned by UTC day. pyarrow is an extra.

The job records are the source; the tables are derived from them and can be written again at any time.

- **What changed** since the last export is what S3 lists as written since then: each attempt, end or erasure rewrites
  its job's record. `_export.json` beside the tables keeps the time by S3's clock at which the last export began to
  list, and the keys of records that it could not read. Only changed records are read, page by page of the listing.
- **Where it goes**: an attempt belongs to the UTC day of its claim, which never changes, and a video to the day on
  which it was stored. So a record names its partitions, and a late end reaches the partition of its day.
- **Rewriting** a partition merges its rows with those of the changed records; both are sorted by job, and of a job only
  rows of its newest revision stay. The same input gives the same bytes, which are not written again. `costs` is
  computed from the whole partition of `attempts`. Rows wait for their partition in a file (`spool`).
- **Races and crashes**: a partition is written over the version that was read, or the day is merged again; since the
  newest revision wins, the order of writers does not matter. `_export.json` comes last: a dead export is repeated.
- **Days before the first export's `--since`** are not written, so that no partition lacks rows.

`rows` and `focus` have the values, `schemas` the columns, `parquet` alone imports pyarrow, `write` exports, and `read`
gives the spend report its attempts.
"""
