"""Loss: how close one image is to the decision boundary, and what a softer target changes."""

from robustviz.ui import context, header, shell, stage
from robustviz.views.loss import panel as loss

here = header.open("How close is the boundary, and how steep is the loss?")


@shell.fragment
def view() -> None:
    """Everything below the title. A fragment, so that moving T does not rerun the rest of the
    page.
    """
    context.follow()
    shown, chosen = loss.first(here)
    temperature = loss.surface(shown, chosen)
    loss.bars(shown, chosen, temperature)
    with stage.more("loss") as more:
        if more.open:
            loss.judged(chosen)
            loss.curvature(here, chosen)
            loss.weights(chosen)


view()
shell.reset_button()
