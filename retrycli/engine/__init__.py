"""Run passes and manual attempts, through ports that other packages implement."""
