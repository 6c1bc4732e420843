"""Training and evaluation of networks: settings, training loop, evaluations, and the checks of
whether an evaluation can be believed (`doctor`).
"""
