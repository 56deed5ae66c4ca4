"""Whose row is it: a file's candidates are resolved to a tenant's students (docs/contracts/student_resolution.md).

The pure core, in the order of its work: `observables` (with `names` and `dates`) reads candidates, `persons` reads the
warehouse's tables, `scoring` weighs pairs (`model` is its data), `deciding` judges, `resolution` puts it together, and
`applying` writes the students' ids into a bundle's output.
"""
