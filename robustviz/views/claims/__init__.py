"""The Claims page: whether the papers' claims can be seen in the runs here."""
