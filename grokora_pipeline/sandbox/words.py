"""The vocabulary: what the sample is made of, and what only the unseen tasks of the swarm test hold."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names and words to draw from. The two vocabularies share file endings, keys and numbers, and no name or word."""

    stems: tuple[str, ...]
    folders: tuple[str, ...]
    words: tuple[str, ...]
    apps: tuple[str, ...]
    buttons: tuple[str, ...]
    fields: tuple[str, ...]
    boxes: tuple[str, ...]
    tabs: tuple[str, ...]
    items: tuple[str, ...]


EXTENSIONS = ("txt", "md", "csv", "log", "pdf", "json", "ini", "html")
KEYS = ("enter", "escape", "tab", "delete", "home", "end", "f5", "f11", "pagedown", "ctrl+f", "ctrl+p", "alt+f4", "f2")
NOTICES = ("Update ready", "Battery low", "Backup finished", "New message", "Network lost")


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _labels(text: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in text.split(","))


SAMPLE = Vocabulary(
    stems=_split(
        "notes budget invoice report diary todo haiku events trip recipe agenda minutes draft sales orders "
        "contacts plan summary letter poem results garden weather stock lecture thesis chapter essay survey "
        "backlog roadmap errors salary rent taxes training menu guests songs movies books scores quotes tickets "
        "wishes packing prayer memes"
    ),
    folders=_split(
        "docs archive backup old finance travel work school photos music shared inbox outbox temp projects private "
        "team clients legal research recipes exports uploads reviews spring autumn office club family outgoing"
    ),
    words=_split(
        "blue river meeting at noon hello groka vault node swarm coffee is ready the train leaves late buy milk "
        "bread call anna tomorrow green apple seven stars shine over quiet hill send parcel monday fix broken lamp "
        "new paint for kitchen door window rain again happy birthday old friend eternal bloom watch moon rise cold "
        "winter night project alpha costs more than planned budget review next week water plants read page ten "
        "walk dog home soon"
    ),
    apps=_labels(
        "Notepad, Browser, Calculator, Terminal, Calendar, Mail, Paint, Player, Chat, Photos, Maps, Clock, Tasks, "
        "Music, Reader, Camera, Monitor, Store, Recorder, Contacts, Viewer, Planner, Archive tool, Text editor, "
        "File manager"
    ),
    buttons=_labels(
        "Save, Cancel, Send, Delete, Apply, Reset, Search, Next, Back, Refresh, Upload, Download, Share, Close, "
        "Print, Add, Remove, Confirm, Login, Export, Import, Play, Stop, Retry, Finish, Create, Start, Sign out, "
        "Save all, Clear list"
    ),
    fields=_labels(
        "Name, Title, Subject, Message, Address, City, Comment, Password, Username, Phone, Keyword, Date, Amount, "
        "Website, Company, Topic, Street, Token, Description, First name, Last name, Body text, Room number"
    ),
    boxes=_labels(
        "Dark mode, Autosave, Notifications, Sound, Remember me, Spell check, Full screen, Sync, Read only, Wrap "
        "lines, Private mode, Large text, Show hidden, Subscribe, Accept terms, Bluetooth, Location"
    ),
    tabs=_labels(
        "General, Advanced, Privacy, Account, Display, Network, History, Files, Users, Security, Storage, About, "
        "Themes, Logs"
    ),
    items=_labels(
        "Holiday photo, Readme, Old invoice, Project plan, Screenshot, Trash, Shortcut, Song list, Draft letter, "
        "Cat meme, Map scan, Budget sheet, Meeting notes"
    ),
)

HELD_OUT = Vocabulary(
    stems=_split(
        "harvest lantern compass orchid falcon glacier mosaic pepper quartz saffron timber velvet walnut zephyr "
        "cobalt dragon ember fiddle granite hazel ivory jasmine"
    ),
    folders=_split("museum bakery studio factory harbor valley cellar attic stable tower castle bridge market chapel"),
    words=_split(
        "purple elephant dances slowly beside copper bells twenty pirates sail toward marble islands golden kites "
        "drift beyond frozen lakes silver foxes whisper tiny stories"
    ),
    apps=_labels(
        "Weatherly, Sketcher, Ledger, Translator, Navigator, Composer, Inspector, Dictionary, Scanner, Postbox"
    ),
    buttons=_labels("Publish, Pin, Mirror, Approve, Submit, Connect, Rotate, Merge, Unlock, Install, Zoom in, Mute"),
    fields=_labels(
        "Nickname, Postcode, Country, Headline, Reference, Department, Quantity, Signature, Motto, Serial code"
    ),
    boxes=_labels("Airplane mode, Night light, Captions, Encryption, Grid view, Mirroring, Vibration, Auto login"),
    tabs=_labels("Billing, Firmware, Plugins, Members, Statistics, Timeline, Appearance, Licences"),
    items=_labels("Wedding video, Blueprint, Passport copy, Lottery ticket, Crossword, Tax form, Violin score"),
)
