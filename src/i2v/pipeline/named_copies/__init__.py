"""Copies of stored videos under names that users choose by `I2V_PUBLISH_AS`.

`names` computes a name, `conflicts` finds names that are taken before anything is paid, `publish_copy` makes the copy.
"""
