"""The words of the tiny world, in English, German and Spanish.

Every table is read row by row; a row is one thing of the world in three languages. Together with the sentences of
`grammar.py` they make some 250 English words.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word or phrase that looks the same wherever it stands."""

    en: str
    de: str
    es: str


@dataclass(frozen=True)
class Person:
    """Somebody; German tells the doer (`der König`) from the one to whom it is done (`den König`)."""

    en: str
    de: str
    de_object: str
    es: str


@dataclass(frozen=True)
class Deed:
    """A verb: English past and base form, German and Spanish past."""

    past: str
    base: str
    de: str
    es: str


@dataclass(frozen=True)
class Colour:
    """A colour; the German stem takes endings, Spanish has four forms."""

    en: str
    de: str
    es_masculine: str
    es_feminine: str
    es_masculine_plural: str
    es_feminine_plural: str


@dataclass(frozen=True)
class Noun:
    """A thing (in the plural) or an animal (in the singular); genders are `m`, `f`, `n`."""

    en: str
    de: str
    de_gender: str
    es: str
    es_gender: str


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


DIGITS = tuple(
    Word(*row)
    for row in _rows("""
    zero  | null   | cero
    one   | eins   | uno
    two   | zwei   | dos
    three | drei   | tres
    four  | vier   | cuatro
    five  | fünf   | cinco
    six   | sechs  | seis
    seven | sieben | siete
    eight | acht   | ocho
    nine  | neun   | nueve
""")
)

# Amounts and hours start at two: one thing would need the singular, and one o'clock another Spanish article.
NUMBERS = (*DIGITS[2:], Word("ten", "zehn", "diez"), Word("eleven", "elf", "once"), Word("twelve", "zwölf", "doce"))

COUNTING = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split()
)

NAMES = tuple(
    Person(name, name, name, name)
    for name in "Anna Bruno Clara David Emma Felix Greta Henry Irene Jonas Laura Martin Nora Oscar Paula Robert Sofia "
    "Thomas Ursula Victor".split()
)

ROLES = tuple(
    Person(*row)
    for row in _rows("""
    the teacher  | der Lehrer    | den Lehrer    | el profesor
    the doctor   | der Arzt      | den Arzt      | el médico
    the farmer   | der Bauer     | den Bauern    | el granjero
    the baker    | der Bäcker    | den Bäcker    | el panadero
    the king     | der König     | den König     | el rey
    the queen    | die Königin   | die Königin   | la reina
    the pilot    | der Pilot     | den Piloten   | el piloto
    the singer   | die Sängerin  | die Sängerin  | la cantante
    the gardener | der Gärtner   | den Gärtner   | el jardinero
    the judge    | die Richterin | die Richterin | la jueza
    the painter  | der Maler     | den Maler     | el pintor
    the sailor   | der Matrose   | den Matrosen  | el marinero
""")
)

PEOPLE = NAMES + ROLES

DEEDS = tuple(
    Deed(*row)
    for row in _rows("""
    bought  | buy   | kaufte     | compró
    sold    | sell  | verkaufte  | vendió
    found   | find  | fand       | encontró
    lost    | lose  | verlor     | perdió
    saw     | see   | sah        | vio
    painted | paint | malte      | pintó
    carried | carry | trug       | llevó
    broke   | break | zerbrach   | rompió
    hid     | hide  | versteckte | escondió
    cleaned | clean | putzte     | limpió
    took    | take  | nahm       | tomó
    wanted  | want  | wollte     | quería
""")
)

COLOURS = tuple(
    Colour(*row)
    for row in _rows("""
    red    | rot     | rojo     | roja     | rojos     | rojas
    blue   | blau    | azul     | azul     | azules    | azules
    green  | grün    | verde    | verde    | verdes    | verdes
    yellow | gelb    | amarillo | amarilla | amarillos | amarillas
    black  | schwarz | negro    | negra    | negros    | negras
    white  | weiß    | blanco   | blanca   | blancos   | blancas
    brown  | braun   | marrón   | marrón   | marrones  | marrones
    grey   | grau    | gris     | gris     | grises    | grises
""")
)

THINGS = tuple(
    Noun(*row)
    for row in _rows("""
    apples   | Äpfel      | m | manzanas  | f
    books    | Bücher     | n | libros    | m
    cups     | Tassen     | f | tazas     | f
    chairs   | Stühle     | m | sillas    | f
    hats     | Hüte       | m | sombreros | m
    keys     | Schlüssel  | m | llaves    | f
    boxes    | Kisten     | f | cajas     | f
    bottles  | Flaschen   | f | botellas  | f
    shirts   | Hemden     | n | camisas   | f
    shoes    | Schuhe     | m | zapatos   | m
    flowers  | Blumen     | f | flores    | f
    pencils  | Bleistifte | m | lápices   | m
    tables   | Tische     | m | mesas     | f
    lamps    | Lampen     | f | lámparas  | f
    coats    | Mäntel     | m | abrigos   | m
    balls    | Bälle      | m | pelotas   | f
    boats    | Boote      | n | barcos    | m
    cars     | Autos      | n | coches    | m
    doors    | Türen      | f | puertas   | f
    windows  | Fenster    | n | ventanas  | f
    plates   | Teller     | m | platos    | m
    knives   | Messer     | n | cuchillos | m
    clocks   | Uhren      | f | relojes   | m
    bags     | Taschen    | f | bolsas    | f
""")
)

ANIMALS = tuple(
    Noun(*row)
    for row in _rows("""
    dog   | Hund  | m | perro   | m
    cat   | Katze | f | gato    | m
    horse | Pferd | n | caballo | m
    bird  | Vogel | m | pájaro  | m
    mouse | Maus  | f | ratón   | m
    fish  | Fisch | m | pez     | m
    cow   | Kuh   | f | vaca    | f
    pig   | Schwein | n | cerdo | m
    sheep | Schaf | n | oveja   | f
    duck  | Ente  | f | pato    | m
""")
)

PLACES = tuple(
    Word(*row)
    for row in _rows("""
    in the market  | auf dem Markt     | en el mercado
    at the school  | in der Schule     | en la escuela
    in the kitchen | in der Küche      | en la cocina
    in the garden  | im Garten         | en el jardín
    at the station | am Bahnhof        | en la estación
    in the park    | im Park           | en el parque
    at the beach   | am Strand         | en la playa
    in the church  | in der Kirche     | en la iglesia
    at the hotel   | im Hotel          | en el hotel
    in the library | in der Bibliothek | en la biblioteca
    on the bridge  | auf der Brücke    | en el puente
    in the forest  | im Wald           | en el bosque
    at the airport | am Flughafen      | en el aeropuerto
    in the office  | im Büro           | en la oficina
    in the museum  | im Museum         | en el museo
    on the train   | im Zug            | en el tren
""")
)

TIMES = tuple(
    Word(*row)
    for row in _rows("""
    on Monday      | am Montag     | el lunes
    on Tuesday     | am Dienstag   | el martes
    on Wednesday   | am Mittwoch   | el miércoles
    on Thursday    | am Donnerstag | el jueves
    on Friday      | am Freitag    | el viernes
    on Saturday    | am Samstag    | el sábado
    on Sunday      | am Sonntag    | el domingo
    yesterday      | gestern       | ayer
    last week      | letzte Woche  | la semana pasada
    in the morning | am Morgen     | por la mañana
    in the evening | am Abend      | por la tarde
    at night       | in der Nacht  | por la noche
""")
)

CITIES = tuple(
    Word(*row)
    for row in _rows("""
    Berlin | Berlin   | Berlín
    Madrid | Madrid   | Madrid
    London | London   | Londres
    Paris  | Paris    | París
    Rome   | Rom      | Roma
    Vienna | Wien     | Viena
    Lisbon | Lissabon | Lisboa
    Oslo   | Oslo     | Oslo
    Prague | Prag     | Praga
    Dublin | Dublin   | Dublín
""")
)
