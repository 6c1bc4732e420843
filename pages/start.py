"""Start: how a network is fooled, in three pictures. Reads the precomputed story only; nothing is
computed here.
"""

from robustviz.views.start import panel as story

pack = story.load()
story.title()
if not story.rounds(pack):
    story.reveal(pack)
    story.hold(pack)
story.onward()
