"""Transfer: attacked images of one network, shown to others."""

import streamlit as st

from robustviz.ui import context, shell

st.title("Does a trick for one network fool another?")
here = context.sidebar()
shell.reset_button()
