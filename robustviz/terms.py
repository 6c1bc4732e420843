"""The glossary: the terms that a newcomer needs, each explained in one to three sentences, for all
tooltips and the Glossary page.
"""

from __future__ import annotations

# The first line of an entry has the key that code uses and the printed term; the other lines
# explain the term.
_ENTRIES = """
aalp: AALP
Adaptive adversarial logit pairing (2020): ALP that drops features of low contribution and weights
each pair by the probability of the true class for its attacked image.

accuracy under attack: Accuracy under attack
Share of test images still classified as their true class after an attack. Any attack can only
overstate robustness: a stronger one may find more, so this is an upper bound on robust accuracy.

adversarial direction: Adversarial direction
The direction in pixel space in which a network's loss rises fastest if every pixel moves equally
far: the sign of the gradient. A random direction beside it is the control.

adversarial example: Adversarial example
An image changed on purpose, so little that a person hardly sees it, so that a network misclassifies
it.

adversarial training: Adversarial training
Attack every batch first, then train on the attacked images.

afa: AFA
Adversarial feature alignment (2024): attack the features instead of the prediction, and train them
to stay close to those of their class.

alp: ALP
Adversarial logit pairing (2018): train on clean and attacked images together and pull their logits
together.

auc: AUC, ROC curve
How well a score tells two groups apart: the area under the curve (AUC) that shows, threshold by
threshold, how many of each it picks (receiver operating characteristic, ROC). 0.5 is chance, 1
perfect.

augmentation: Augmentation
Random flips and shifts of the training images, so that a network sees each a little differently
every time.

autoattack: AutoAttack
Four attacks in a row, each on the images that the others did not fool (2020): the usual yardstick.
A network is right on an image only if none of them fools it.

awp: AWP, weight averaging
Adversarial weight perturbation (2020) computes the gradient after the weights were moved to raise
the loss. A running average of the weights is another help against overfitting.

batch norm: Batch norm (BN)
A layer that rescales features by their mean and spread, over the batch in training, over a
running average afterwards.

bisection: Bisection
Halving an interval again and again: here, to find the smallest ε at which the attack flips an
image.

cam: Class-activation map (CAM)
A heat map of the pixels on which a network's prediction rests. Grad-CAM weights the last feature
maps by their gradients. Evidence, not proof.

catastrophic overfitting: Catastrophic overfitting
Training on a one-step attack sometimes teaches the network to beat only that step: FGSM accuracy
soars, PGD accuracy falls to zero.

cifar: CIFAR-10, CIFAR-100, SVHN
Public sets of small pictures: photographs of 10 or 100 classes, and street view house numbers
(SVHN).

clean accuracy: Clean accuracy
Share of untouched test images classified correctly.

cnn: Small CNN
A plain convolutional neural network (CNN): a stack of small filters that are learned.

confusion matrix: Confusion matrix
A table of predictions: a row for each true class, a column for each predicted class. Images off the
diagonal are misclassified.

contrastive loss: Contrastive loss
Asks that features of one class lie close together and those of different classes far apart.

contribution: Contribution
What one feature adds to a class's logit: the feature times its weight. With the bias they add up
to the logit.

control: Control
A training of the same length with the idea left out: what remains of a gain is due to the idea.

cpu: CPU, GPU, CUDA
The processor every computer has; the graphics processor some have, many times faster here; and
the software by which torch uses it.

cross-entropy: Cross-entropy (CE)
The usual training loss: minus the logarithm of the softmax output for the true class.

csv: CSV
A table as plain text, which every spreadsheet opens.

curvature: Curvature (λ)
The eigenvalue of largest size of the Hessian, the loss's second derivatives by the pixels: how
strongly the loss bends at a picture. ReLU is replaced by the smooth softplus, because ReLU hides
the bend.

diffusion model: Diffusion model
A network that makes new images out of noise; some defences train on such images too.

doctor: Doctor
Checks run beside every robust number: was the attack inside its budget, are its gradients of use,
does it find examples planted on purpose? Some warn, others call the number unreliable. No fault
found is not a proof.

ema: Averaged weights (EMA)
A running average of the weights over the training steps, often better than the last weights.

entropy: Entropy
How unsure a softmax output is, in nats: 0 for one sure class, log of the number of classes if all
are alike.

epoch: Epoch
One pass over all training images.

epsilon: ε (epsilon)
The attack's budget: the largest change allowed at any pixel, on a scale where black is 0 and
white is 1. 8/255 is eight grey levels.

eta: Time left
Estimated from the median duration of the last 20 training steps and the last validation. It
includes the final evaluation.

every attack: Under every attack
Share of images on which a network is right under each attack that was run on them. One attack that
succeeds is enough to lose an image.

feature map: Map of features
Features have dozens of dimensions; a map shows each image as a point of a plane. What lies close
there need not be close in truth, so distances are measured before.

features: Features
The input of a network's last layer: the numbers by which the network represents the image.

fgsm: FGSM
Fast gradient sign method: one step of length ε along the sign of the gradient. The first and
cheapest attack (2015).

fgsm-at: FGSM-AT
Adversarial training with FGSM; prone to catastrophic overfitting.

fgsm-rs: FGSM-RS
Adversarial training with one step from a random start (Fast-AT, 2020).

gain: Gain
How much a change is magnified when it is shown. It is one number a page: the largest change that
the page's slider allows is black or white, and no change is grey.

gradient masking: Gradient masking
A network whose gradients mislead attacks without being robust. More steps, restarts or attacks
without gradients reveal it.

groups: Three groups of methods
Defences train on attacked images. Methods without adversarial training never see one, so a gain
under FGSM alone is not robustness. The red team helps the attacker and is not a defence.

guided dropout: Guided dropout
Leaving out, at random while training, features that contribute little to the true class or speak
against it.

heads: SLF, ALF, AFF
Three ways to put a classifier on learned features: a linear head on clean images (SLF), on
attacked images (ALF), or training everything on attacked images (AFF).

interval: 95% interval
Where the true value plausibly lies, given how many images or seeds were counted. For a share it is
Wilson's score interval; for a difference, *How sure?* names the rule.

iou: IoU, pointing game, energy
How well a map lies on the true object. IoU (intersection over union) is the share of mask and
object that both have in common; pointing asks whether the hottest pixel lies on the object;
energy is the share of the map that does.

kl: KL divergence
How far one softmax output is from another; 0 when they are equal.

l2: ℓ2
Measures a change by the root of its summed squares.

learning rate: Learning rate
Length of the training steps. Too high and the loss explodes.

linf: ℓ∞ (linf)
Measures a change by its largest pixel. The usual budget.

logits: Logits
The network's raw outputs, one per class, before softmax turns them into numbers that add up to 1.

loss surface: Loss surface
The loss over a plane cut through the space of pictures or of weights. A slice shows what it cuts
and nothing else; compare slices of the same directions and scale only.

margin: Margin
A distance that features of different classes are pushed to keep.

mart: MART
A defence (2020) like TRADES that gives more weight to images which are misclassified without an
attack. Its first term is a boosted cross-entropy (BCE).

mask: Mask
The pixels that count as important: where the map, scaled to 0…1, lies more than one standard
deviation above its mean (z>1), or by another rule. Shuffled and jet-compat repeat defects of the
published code; oracle is the true object.

mi: MI, DI, TI
PGD made to transfer better: with momentum (MI), with diverse inputs (DI), with gradients blurred
over shifts (TI). MIM-20 is MI with 20 steps.

misaligned: Misaligned
Features that lie nearer to another class than to their own. Five causes are told apart: classes
overlap, labels are wrong, the head's boundary is too close, the attack pushes, a few images are
odd.

mnist: MNIST, Fashion-MNIST
Public sets of small grey pictures: handwritten digits, and clothes of ten kinds.

model alignment: Model alignment
Fine-tuning the attacker's network to a witness's soft labels, so that its attacks transfer better
(2024). It is not a defence.

nearest neighbours: Nearest neighbours (10-NN)
The class that most of an image's ten nearest images have. Here they are sought among clean
images, without the image itself.

p: p
How often chance alone would make two equal networks differ as much as these two, or more. Small:
hardly by chance.

paired: Paired comparison
Both networks see the same images, so only those count on which they differ. Tango's interval says
how far apart they are; McNemar's test gives the p.

part: PART
Pixel-reweighted adversarial training (2024): the full ε only on important pixels, a smaller one
(ε_low) elsewhere. PART-T builds on TRADES, PART-M on MART. Its opposite SIP-AT (salient information
preserving adversarial training, 2025) leaves the important pixels unchanged.

pca: PCA
Principal component analysis: the plane along which points vary most. A straight view: it bends
nothing.

pgd: PGD
Projected gradient descent: many small steps that raise the loss, each projected back into the
budget. PGD-20 has 20 steps. CW raises Carlini and Wagner's margin.

pgd-at: PGD-AT
Adversarial training with PGD (Madry et al., 2018): the standard defence.

preset: Recipe
A named set of settings: a lesson for a laptop, or a published one for a GPU.

random weights: Random weights
The control of a map: the same network before training. A map that looks the same there shows the
picture, not what was learned.

rank correlation: Rank correlation
Whether two maps order the cells alike: 1 the same order, 0 none, −1 the reverse (Spearman).

red team: Red team
Those who play the attacker, to learn how strong an attack can be.

resnet: ResNet-18, WRN-34-10
Convolutional networks of 18 and of 34 layers with shortcuts; WRN is the wide one (Wide-ResNet),
ten times as wide.

restart: Restart
Another run of the attack from a new random start; the worst of all counts.

road: ROAD
Remove and debias (2022): paints over the pixels that a map calls important, then those it calls
unimportant. A faithful map makes the softmax output fall more in the first case; its score is then
above 0.

run: Run
One training with everything it saved: settings, curves, weights, evaluations. A folder.

scoreboard: Scoreboard
All networks of a data set on one chart: right untouched across, right under attack up. Top right is
best.

seed: Seed
The number that all random draws start from. On one processor with the same
versions of all packages, the same seed gives the same result.

sgd: SGD
Stochastic gradient descent: learning in small steps from random batches of images.

shapes: Shapes
Drawn pictures of ten objects on textured backgrounds, made on the fly; for each we know which
pixels are the object.

soft labels: Soft labels
A network's whole softmax output used as the training target, in place of the one true class.

softmax output: Softmax output
The network's outputs scaled to add up to 1. Not a probability of being right.

square: Square attack
An attack that needs no gradients: it tries random squares and keeps those that raise the loss. It
sees through gradient masking.

supcon: SupCon
Supervised contrastive loss (2020): all images of one class are each other's positives.

targeted: Targeted attack
An attack that aims at one particular wrong class.

temperature: Temperature (τ, T)
What scores are divided by before softmax: a high one makes the softmax output less confident, a low
one more.

trade-off: Trade-off
More robust often means less accurate on untouched images: a larger ε leaves less room between the
classes.

trades: TRADES
A defence (2019) that trains on clean images and penalises a change of the prediction near them; β
weighs the two.

transfer: Transfer
Whether an attack made on one network fools another.

umap: UMAP
A map that keeps neighbours together and bends everything else: axes, sizes of groups and gaps
between them say nothing (2018).

upper bound: Upper bound
A number the truth cannot exceed: no attack proves that a stronger one would not find more.

url: URL
The page's address. It holds every setting, so copying it shares what you see.

validation: Validation split
Images kept aside to choose the best epoch. A training uses no test image until its final
evaluation.

warm-up: Warm-up
The first part of a training, in which PART still attacks with the full ε everywhere. AWP has a
warm-up of its own, in which it is off.

weight decay: Weight decay
Pulling all weights a little towards 0 at each step, against overfitting.

witness: Witness
The frozen network whose soft labels model alignment learns from.
"""

TERMS: dict[str, tuple[str, str]] = {
    head.split(": ", 1)[0]: (head.split(": ", 1)[1], " ".join(lines))
    for head, *lines in (entry.split("\n") for entry in _ENTRIES.strip().split("\n\n"))
}


def term(name: str) -> str:
    """The title and explanation of a term as Markdown, for a tooltip. `name` is the key of the term
    in the glossary. Raises KeyError if the glossary does not have it; a test looks for such names.
    """
    title, text = TERMS[name]
    return f"**{title}.** {text}"
