"""`ccm-quickstart`, room by room: what is found, what is asked, what is written."""
