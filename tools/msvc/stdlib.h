/* Named by others, and csrc/ takes nothing of it. */
