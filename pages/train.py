"""Train: what if…? A form made from the registry, a job in its own process, its curves live."""

import streamlit as st

from robustviz.ui import shell
from robustviz.views.train import panel as train

st.title("What if…?")
config = train.form()
if config is not None:
    train.submit(config)
train.watch()
train.job_list()
shell.reset_button()
