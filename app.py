import streamlit as st
from starlette.middleware import Middleware

from robustviz.ui.server import MAIN, Prompt, open_house

app = st.App(MAIN, middleware=[Middleware(Prompt)], lifespan=open_house)
