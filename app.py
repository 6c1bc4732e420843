import streamlit as st
app = st.App("robustviz/ui/main.py")
