"""A library's loans: a small service that is as unlike the shop as it can be, to prove that the test kit can be copied.

Pooled connections, Peewee's Falcon recipe (each request connects and closes), integer keys, tables without migrations.
"""
