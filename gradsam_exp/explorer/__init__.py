"""The explorer is a local page on which one changes a setting and sees at once what becomes of an image.

`choices` turns what is chosen on the page into a configuration, `controls` turns a plug-in's fields into controls,
`views` computes what is shown, `desk` does the newest request first, and `server` answers the browser.
"""
