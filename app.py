import streamlit as st
from starlette.middleware import Middleware

from robustviz.ui.server import Prompt, open_house

app = st.App("robustviz/ui/main.py", middleware=[Middleware(Prompt)], lifespan=open_house)
