print("jext4")
