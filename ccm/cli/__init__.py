"""The commands ccm, ccmctl and ccm-quickstart."""
