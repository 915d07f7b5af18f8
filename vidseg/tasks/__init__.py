"""The tasks that a network is trained for; each knows its loss, its evaluation and its reports."""
