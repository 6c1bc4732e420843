"""The words a newcomer needs, each in one or two sentences: what every tooltip and the Glossary page read."""

from __future__ import annotations

TERMS: dict[str, tuple[str, str]] = {
    "accuracy under attack": (
        "Accuracy under attack",
        "Share of test images still classified as their true class after an attack. Any attack can only overstate robustness: "
        "a stronger one may find more, so this is an upper bound on robust accuracy.",
    ),
    "adversarial example": (
        "Adversarial example",
        "An image changed on purpose, so little that a person hardly sees it, so that a network answers wrongly.",
    ),
    "adversarial training": ("Adversarial training", "Attack every batch first, then learn from the attacked images."),
    "batch norm": ("Batch norm (BN)", "A layer that rescales features by their mean and spread, over the batch in training, over a running average afterwards."),
    "bisection": ("Bisection", "Halving an interval again and again: here, to find the smallest ε at which the attack flips an image."),
    "catastrophic overfitting": ("Catastrophic overfitting", "Training on a one-step attack sometimes teaches the network to beat only that step: FGSM accuracy soars, PGD accuracy falls to zero."),
    "clean accuracy": ("Clean accuracy", "Share of untouched test images classified correctly."),
    "cpu": ("CPU, GPU, CUDA", "The processor every computer has; the graphics processor some have, many times faster here; and the software by which torch uses it."),
    "cross-entropy": ("Cross-entropy (CE)", "The usual training loss: minus the logarithm of the softmax output for the true class."),
    "csv": ("CSV", "A table as plain text, which every spreadsheet opens."),
    "doctor": ("Doctor", "Checks run beside every robust number: was the attack inside its budget, were gradients there, do more steps help the attacker? No fault found is not a proof."),
    "epsilon": ("ε (epsilon)", "The attack's budget: the largest change allowed at any pixel, on a scale where black is 0 and white is 1. 8/255 is eight grey levels."),
    "epoch": ("Epoch", "One pass over all training images."),
    "eta": ("Time left", "Estimated from the median duration of the last 20 training steps."),
    "fgsm": ("FGSM", "Fast gradient sign method: one step of length ε along the sign of the gradient. The first and cheapest attack (2015)."),
    "fgsm-at": ("FGSM-AT", "Adversarial training with FGSM; prone to catastrophic overfitting."),
    "fgsm-rs": ("FGSM-RS", "Adversarial training with one step from a random start (Fast-AT, 2020)."),
    "gain": ("Gain", "How much a change is magnified when it is shown: 0.5/ε, so that the largest allowed change is black or white and no change is grey."),
    "gradient masking": ("Gradient masking", "A network whose gradients mislead attacks without being robust. More steps, restarts or attacks without gradients reveal it."),
    "interval": ("95 % interval", "Where the true share plausibly lies, given how many images were counted (Wilson's score interval)."),
    "kl": ("KL divergence", "How far one list of class probabilities is from another; 0 when they are equal."),
    "learning rate": ("Learning rate", "Length of the training steps. Too high and the loss explodes."),
    "linf": ("ℓ∞ (linf)", "Measures a change by its largest pixel. The field's usual budget."),
    "l2": ("ℓ2", "Measures a change by the root of its summed squares."),
    "logits": ("Logits", "The network's raw outputs, one a class, before softmax turns them into numbers that add up to 1."),
    "pgd": ("PGD", "Projected gradient descent: many small steps uphill on the loss, each pulled back inside the budget. PGD-20 has 20 steps."),
    "pgd-at": ("PGD-AT", "Adversarial training with PGD (Madry et al., 2018): the standard defence."),
    "restart": ("Restart", "Another run of the attack from a new random start; the worst of all counts."),
    "run": ("Run", "One training with everything it left behind: settings, curves, weights, evaluations. A folder."),
    "seed": ("Seed", "The number all chance is drawn from. Same seed, same pictures, same result."),
    "sgd": ("SGD", "Stochastic gradient descent: learning in small steps from random batches of images."),
    "shapes": ("Shapes", "Drawn pictures of ten objects on textured backgrounds, made on the fly; for each we know which pixels are the object."),
    "softmax output": ("Softmax output", "The network's outputs scaled to add up to 1. Not a probability of being right."),
    "targeted": ("Targeted attack", "An attack that wants one particular wrong answer."),
    "trades": ("TRADES", "A defence (2019) that learns clean images and asks that predictions hardly move nearby; β weighs the two."),
    "upper bound": ("Upper bound", "A number the truth cannot exceed: no attack proves that a stronger one would not find more."),
    "url": ("URL", "The page's address. It holds every setting, so copying it shares what you see."),
    "validation": ("Validation split", "Images kept aside to choose the best epoch; the test split is touched only by the final evaluation."),
}  # fmt: skip


def term(name: str) -> str:
    """What a term means, for a tooltip. Raises KeyError for one that is not in the glossary, which a test would see."""
    title, text = TERMS[name]
    return f"**{title}.** {text}"
