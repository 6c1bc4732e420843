import streamlit as st

from robustviz.ui.server import HOUSE

app = st.App(**HOUSE)
