"""How alike two representations are (CKA, Procrustes), and the least-squares map from one to the other."""
