"""Soft labels and loss: a witness's soft labels, and the surfaces of the loss."""

import streamlit as st

from robustviz.ui import context, shell

st.title("What changes when the target is less sure?")
here = context.sidebar()
shell.reset_button()
