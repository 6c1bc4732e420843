"""What can an attacker do who may touch only the pixels that you paint?"""
