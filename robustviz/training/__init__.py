"""Training and evaluation of networks: settings, training loop, evaluations, and the doctor that
checks them.
"""
