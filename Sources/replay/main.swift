print("jext4-replay")
