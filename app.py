import streamlit as st
from starlette.middleware import Middleware

from robustviz.ui.server import Prompt

app = st.App("robustviz/ui/main.py", middleware=[Middleware(Prompt)])
